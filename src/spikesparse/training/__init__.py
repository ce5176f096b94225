"""The LightningModule, and what accompanies a training."""
