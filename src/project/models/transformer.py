"""A small transformer that reads from left to right."""

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import dropout, gelu, scaled_dot_product_attention

from metronome.units import InputError


class Transformer(nn.Module):
    """Predicts at each token the next one, from those up to it: Vaswani et al. (2017), arXiv 1706.03762, the decoder,
    with norms in front of each part, as in GPT-2.

    Inputs of shape (samples, length) are tokens, int64; outputs (samples, length, num_tokens) are logits. No output
    looks at a later input, so padding at a document's end changes nothing before it.

    Args:
        num_tokens: kinds of tokens.
        max_length: the most tokens of a sample.
        width: numbers that stand for a token within the network.
        depth: blocks of attention and two linear layers.
        num_heads: of attention; a divisor of `width`.
        dropout: in each block.
    """

    def __init__(
        self,
        num_tokens: int,
        max_length: int,
        width: int = 64,
        depth: int = 2,
        num_heads: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.tokens, self.positions = nn.Embedding(num_tokens, width), nn.Embedding(max_length, width)
        for embedding in (self.tokens, self.positions):
            nn.init.normal_(embedding.weight, std=0.02)  # as in GPT-2
        # Without biases: the gradient of the keys' is nothing but rounding errors, and in float32 Adam makes steps of
        # them as large as of any other gradient, so that it would be another for each way of cutting a batch.
        self.blocks = nn.ModuleList(Block(width, num_heads, dropout) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width, bias=False), nn.Linear(width, num_tokens, bias=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        states = self.tokens(input_ids) + self.positions.weight[: input_ids.shape[1]]
        for block in self.blocks:
            states = block(states)
        return self.head(self.norm(states))

    def parallelize(self, mesh: Any) -> None:
        """Cut the network up over the devices of a mesh of one dimension, which work on the same samples.

        Each takes some of the heads and some of the middle of the two linear layers, which is what `Colwise` cuts; the
        layer after it (`Rowwise`) adds up what all of them have found. Each has all of the rest.

        Raises:
            InputError: where the heads cannot be dealt out evenly.
        """
        from torch.distributed.tensor import Replicate
        from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

        if self.num_heads % mesh.size():
            raise InputError(
                f"{self.num_heads} heads cannot be dealt out to {mesh.size()} devices; give model.network.num_heads a "
                f"multiple, or trainer.strategy.tensor_parallel_size a divisor of {self.num_heads}"
            )
        for block in self.blocks:
            parts = {name: ColwiseParallel() for name in ("query", "key", "value", "widen")}
            parallelize_module(block, mesh, {**parts, "out": RowwiseParallel(), "narrow": RowwiseParallel()})
        parallelize_module(self, mesh, {"head": ColwiseParallel(output_layouts=Replicate())})


class Block(nn.Module):
    """Attention to the tokens before, then two linear layers for each token; both are added to what was there.

    Args: as those of `Transformer`. States have the shape (samples, length, width).
    """

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.head_width, self.dropout = width // num_heads, dropout
        self.norm_1, self.norm_2 = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.widen, self.narrow = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, states: Tensor) -> Tensor:
        states = states + self._drop(self._attention(self.norm_1(states)))
        return states + self._drop(self.narrow(self._drop(gelu(self.widen(self.norm_2(states))))))

    def _attention(self, states: Tensor) -> Tensor:
        # As many heads as are on this device.
        heads = (
            part(states).unflatten(-1, (-1, self.head_width)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        found = scaled_dot_product_attention(*heads, dropout_p=self.dropout if self.training else 0.0, is_causal=True)
        return self.out(found.transpose(1, 2).flatten(2))

    def _drop(self, states: Tensor) -> Tensor:
        return dropout(states, self.dropout, self.training) if self.dropout else states
