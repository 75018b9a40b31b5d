"""What training, evaluation and spectra share: loading a model, tokenizing."""
