"""Networks, each a plain `nn.Module` made of its sizes; and LightningModules of one's own."""

from project.models.convolutional import cnn
from project.models.double_well import DoubleWell
from project.models.language import LanguageModel
from project.models.perceptron import linear, mlp
from project.models.quadratic import Quadratic
from project.models.residual import resnet
from project.models.transformer import Transformer

__all__ = ["DoubleWell", "LanguageModel", "Quadratic", "Transformer", "cnn", "linear", "mlp", "resnet"]
