"""How the components join into the training pipeline."""
