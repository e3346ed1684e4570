"""The built-in metrics.

Exact divergences, the paper's histogram protocol, rewards and modes, diversity, novelty and similarity.
"""

import genflow


@genflow.hookimpl
def register_metrics(register):
    """Exact: js, kl, kl_reverse, l1, tv. Histogram: hist_js, hist_kl, hist_l1.

    Sampled: mean_reward, log_z_error, log_z_bound, modes, reward_correlation. Against each other: diversity,
    diversity_tv, cka. Against checkpoints: novelty, novelty_tv, error_agreement.
    """
    for name, cls in {
        "js": "JS",
        "kl": "KL",
        "kl_reverse": "ReverseKL",
        "l1": "MeanL1",
        "tv": "TotalVariation",
    }.items():
        register(name, f"genflow_metrics.divergence:{cls}")
    for name, cls in {"hist_js": "HistogramJS", "hist_kl": "HistogramKL", "hist_l1": "HistogramL1"}.items():
        register(name, f"genflow_metrics.divergence:{cls}")
    for name, cls in {
        "mean_reward": "MeanReward",
        "log_z_bound": "LogZBound",
        "log_z_error": "LogZError",
    }.items():
        register(name, f"genflow_metrics.reward:{cls}")
    for name, cls in {"modes": "Modes", "reward_correlation": "RewardCorrelation"}.items():
        register(name, f"genflow_metrics.modes:{cls}")
    for name, cls in {"diversity": "Diversity", "diversity_tv": "DiversityTV"}.items():
        register(name, f"genflow_metrics.diversity:{cls}")
    for name, cls in {
        "novelty": "Novelty",
        "novelty_tv": "NoveltyTV",
        "error_agreement": "ErrorAgreement",
    }.items():
        register(name, f"genflow_metrics.novelty:{cls}")
    register("cka", "genflow_metrics.similarity:CKA")
