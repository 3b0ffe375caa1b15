"""One recipe, one run, one checkpoint folder; an ablation is several."""
