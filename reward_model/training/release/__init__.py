"""From a checkpoint folder to an alias that serves: publish, gate, promote, the hub."""
