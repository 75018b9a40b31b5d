"""What training, evaluation and spectra share: models and tokenizers from their directories."""
