"""The offline trainer: data, losses, training, calibration, evaluation."""
