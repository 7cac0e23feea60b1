"""How long a model would take on a kind of device, without the device (docs/prediction.md)."""
