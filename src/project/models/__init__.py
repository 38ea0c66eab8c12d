"""Networks, each a plain `nn.Module` made of its sizes; and a LightningModule of one's own."""

from project.models.convolutional import cnn
from project.models.language import LanguageModel
from project.models.perceptron import linear, mlp
from project.models.residual import resnet
from project.models.transformer import Transformer

__all__ = ["LanguageModel", "Transformer", "cnn", "linear", "mlp", "resnet"]
