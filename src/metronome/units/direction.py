"""Whether less or more of a metric is better, as far as the words of its name tell."""

import re

MODES = ("min", "max")

# Words that stand for one kind of number wherever they are used; others (`score`, `elbo`, `kl`, `top5`) do not.
_LESS = frozenset((
    "loss", "losses", "error", "errors", "err", "errs", "cost", "perplexity", "ppl", "mse", "mae", "rmse", "mape",
    "smape", "wmape", "msle", "rmsle", "nll", "logloss", "bce", "ce", "crossentropy", "bpc", "bpb", "bpd", "wer",
    "cer", "eer", "ece", "fid", "kid", "lpips", "brier", "epe", "rmsd", "regret",
))  # fmt: skip
_MORE = frozenset((
    "acc", "accs", "accuracy", "accuracies", "f1", "f2", "f1score", "fbeta", "auc", "auroc", "auprc", "rocauc",
    "prauc", "ap", "map", "miou", "iou", "giou", "jaccard", "dice", "precision", "recall", "sensitivity",
    "specificity", "r2", "r2score", "kappa", "mcc", "bleu", "rouge", "meteor", "chrf", "psnr", "ssim", "ndcg", "mrr",
    "pearson", "spearman", "reward", "rewards",
))  # fmt: skip
# Several words that mean something else together.
_PHRASES = {
    ("neg", "log", "likelihood"): "min", ("negative", "log", "likelihood"): "min", ("log", "likelihood"): "max",
    ("cross", "entropy"): "min", ("explained", "variance"): "max",
    ("dice", "loss"): "min", ("iou", "loss"): "min", ("giou", "loss"): "min", ("jaccard", "loss"): "min",
    ("ssim", "loss"): "min",
}  # fmt: skip
# With one of these a name is of a number beside the metric (`loss_scale`, `acc_std`), or of its opposite (`neg_loss`,
# which some call the loss of the negatives).
_TURNS = frozenset((
    "neg", "negative", "minus", "inv", "inverse", "non", "no", "not", "anti", "gap", "diff", "difference", "delta",
    "drop", "change", "ratio", "std", "stddev", "stdev", "standard", "var", "variance", "count", "num", "number",
    "size", "length", "weight", "weights", "scale", "threshold", "grad", "gradient", "gradients", "norm", "lr",
    "time", "seconds", "ms", "steps", "memory", "rank", "index",
))  # fmt: skip


def direction_of(name: str) -> str | None:
    """`min` where less of a metric is better, `max` where more is; None where its name does not tell for certain.

    It goes by whole words, between `/`, `_`, `-`, `.` or a change to a capital letter: losses and errors down,
    accuracies and their kin up. A name with words of both kinds, or of neither, does not tell.

    >>> direction_of("val/loss"), direction_of("val/acc"), direction_of("val/loss_acc"), direction_of("val/score")
    ('min', 'max', None, None)
    """
    words = _words(name)
    found: set[str] = set()
    for phrase, mode in _PHRASES.items():
        for i in range(len(words) - len(phrase), -1, -1):
            if tuple(words[i : i + len(phrase)]) == phrase:
                found.add(mode)
                del words[i : i + len(phrase)]
    if _TURNS.intersection(words):
        return None
    found |= {mode for word in words if (mode := _of_word(word)) is not None}
    return found.pop() if len(found) == 1 else None


def _words(name: str) -> list[str]:
    """In small letters; `valLoss` is two, `mIoU` and `RMSE` are one."""
    found: list[str] = []
    for part in re.split(r"[^A-Za-z0-9]+", name):
        is_known = _of_word(part.lower()) is not None
        pieces = [part] if is_known else re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", part).split()
        found += [piece.lower() for piece in pieces]
    return found


def _of_word(word: str) -> str | None:
    for known in (word, word.rstrip("0123456789")):  # acc5, map50
        if known in _LESS or known in _MORE:
            return "min" if known in _LESS else "max"
    return None
