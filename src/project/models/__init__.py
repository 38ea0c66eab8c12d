"""Networks: each a function of its sizes that returns a plain `nn.Module`."""

from project.models.networks import cnn, linear, mlp, resnet

__all__ = ["cnn", "linear", "mlp", "resnet"]
