"""From own videos to a classifier: data, recipe, training, report. See docs/finetune.md."""
