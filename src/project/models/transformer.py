"""A small transformer that reads from left to right."""

from torch import Tensor, nn


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
        self.tokens, self.positions = nn.Embedding(num_tokens, width), nn.Embedding(max_length, width)
        for embedding in (self.tokens, self.positions):
            nn.init.normal_(embedding.weight, std=0.02)  # as in GPT-2
        # Without biases: the gradient of the keys' is nothing but rounding errors, and in float32 Adam makes steps of
        # them as large as of any other gradient, so that it would be another for each way of cutting a batch.
        # One by one: nn.TransformerEncoder begins with copies of the same weights in all blocks.
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, num_heads, 4 * width, dropout, "gelu", batch_first=True, norm_first=True, bias=False
            )
            for _ in range(depth)
        )
        self.norm, self.head = nn.LayerNorm(width, bias=False), nn.Linear(width, num_tokens, bias=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        length = input_ids.shape[1]
        states = self.tokens(input_ids) + self.positions.weight[:length]
        later = nn.Transformer.generate_square_subsequent_mask(length, device=states.device, dtype=states.dtype)
        for block in self.blocks:
            states = block(states, src_mask=later, is_causal=True)
        return self.head(self.norm(states))
