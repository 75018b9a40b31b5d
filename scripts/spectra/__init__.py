"""Singular values of what finetuning changed, and what is read off them."""
