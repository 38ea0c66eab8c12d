"""Networks: each a function of its sizes that returns a plain `nn.Module`."""

from project.models.convolutional import cnn
from project.models.perceptron import linear, mlp
from project.models.residual import resnet

__all__ = ["cnn", "linear", "mlp", "resnet"]
