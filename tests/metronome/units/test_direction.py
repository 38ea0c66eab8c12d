"""What the name of a metric tells of its direction, and where it does not."""

import pytest

from metronome.units import direction_of

LESS = [
    "val/loss", "loss", "val_loss", "val-loss", "val.loss", "VAL/LOSS", "valLoss", "val/loss_epoch",
    "val/loss/dataloader_idx_0", "val/total_loss", "loss1", "loss_step", "val/error", "error_rate", "test/err",
    "top5_err",
    "val/perplexity", "val/ppl", "val/mse", "val/RMSE", "val/mean_squared_error",
    "val/mean_absolute_percentage_error", "nll", "val/neg_log_likelihood", "negative_log_likelihood",
    "val/cross_entropy", "val/bce", "val/dice_loss", "val/iou_loss", "val/wer", "val/fid", "fid_score", "brier_score",
    "val/max_error", "by_samples/val/loss", "val/log_loss",
]  # fmt: skip
MORE = [
    "val/acc", "accuracy", "val_accuracy", "val/acc5", "top5_acc", "acc@1", "val/f1", "f1_score", "val/f1score",
    "macro_f1", "val/auc", "val/auroc", "val/AUROC", "val/precision", "val/recall@10", "val/iou", "val/mIoU",
    "val/mAP", "val/map50", "val/r2", "val/R2Score", "val/dice", "val/kappa", "val/psnr", "valAccuracy",
    "MulticlassAccuracy", "mean_average_precision", "val/balanced_accuracy", "val/log_likelihood",
    "val/explained_variance", "val/bleu-4", "lossless_acc", "val/acc_best",
]  # fmt: skip
# Of both kinds, of neither, or of a number beside the metric.
UNKNOWN = [
    "val/foo", "val/loss_acc", "accuracy_error", "acc_loss", "val/lossless", "val/valloss", "top5", "val/score",
    "elbo", "val/kl", "kl_divergence", "val/entropy", "val/distance", "similarity", "neg_loss",
    "neg_mean_squared_error", "negative_accuracy", "true_negative_rate", "loss_scale", "loss_weight", "val/loss_std",
    "acc_gap", "loss_ratio", "loss_time", "loss_grad_norm", "f1_threshold", "error_count", "val/accumulated",
    "val/loss_dice", "lr", "epoch", "reward_loss", "val/gloss", "val/terror", "val/errand", "map_size", "1", "/", "_",
]  # fmt: skip


@pytest.mark.parametrize("name", LESS)
def test_less_is_better(name: str) -> None:
    assert direction_of(name) == "min"


@pytest.mark.parametrize("name", MORE)
def test_more_is_better(name: str) -> None:
    assert direction_of(name) == "max"


@pytest.mark.parametrize("name", ["", *UNKNOWN])
def test_where_it_does_not_tell_nothing_is_guessed(name: str) -> None:
    assert direction_of(name) is None
