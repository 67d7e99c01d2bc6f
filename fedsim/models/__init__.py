"""Tasks from any `nn.Module`, the models of the scenarios, and adapters."""
