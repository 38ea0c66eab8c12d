"""What a plan on paper takes for granted, in lines."""

from metronome.app.paper.story import OnPaper
from metronome.units.paper.texts import count


def assumed(found: OnPaper) -> list[str]:
    """Only what bears on this plan."""
    counted, layout, paper = found.counted, found.layout, found.paper
    looked_at = count(counted.looked_at, "sample")
    lines = [
        f"Activations are those that PyTorch keeps with its kernels for a CPU, of the first {looked_at} of the data "
        "here, as long as the longest of them; longer ones take more.",
        "Not counted: what callbacks, compiled code and activation checkpointing change; CUDA's own and NCCL's memory, "
        "for which paper.reserve is left.",
    ]
    if not counted.is_fake:
        lines.append(
            f"Counted on real numbers, in few samples and along a line from there; without data: {counted.why}"
        )
    if layout.tensor_parallel > 1:
        lines.append(
            "Tensor parallel: matrices are divided, vectors are not, and activations count as if nothing of them were: "
            "less in truth."
        )
    if layout.sharded and layout.data_parallel > 1:
        lines.append(
            "FSDP2: a unit is an element of the network's list of blocks; the next one is gathered ahead; what is in "
            "none stays gathered."
        )
    if found.time is not None:
        if not found.time.rest:
            lines.append("The update itself, data and hooks take no time; measure=true measures them here.")
        if layout.devices > 1:
            lines.append("All links are as fast as stated, at once; the backward pass takes two thirds of both.")
    if paper.failures:
        lines.append("Failures come at a constant rate, in saves and restarts too; each ends all devices.")
        if paper.background:
            lines.append("Writing in the background slows no step down; a file that is not whole at a failure is lost.")
    return [*lines, "Nothing of this ran on the devices that it is about."]
