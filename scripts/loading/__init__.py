"""What training, evaluation and spectra share: models from their directories, and their logits."""
