"""The built-in metrics.

Exact divergences, the paper's histogram protocol, rewards and modes, diversity, novelty and similarity.
"""

import genflow


@genflow.hookimpl
def register_metrics(register):
    """Register the metrics, in the groups and under the names of docs/metrics.md."""
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
        "log_z_gap": "LogZGap",
        "kl_bound": "KLBound",
        "reverse_kl_bound": "ReverseKLBound",
        "log_z_error": "LogZError",
    }.items():
        register(name, f"genflow_metrics.reward:{cls}")
    for name, cls in {"modes": "Modes", "reward_correlation": "RewardCorrelation"}.items():
        register(name, f"genflow_metrics.modes:{cls}")
    for name, cls in {
        "diversity": "Diversity",
        "diversity_tv": "DiversityTV",
        "parameter_variance": "ParameterVariance",
    }.items():
        register(name, f"genflow_metrics.diversity:{cls}")
    for name, cls in {
        "novelty": "Novelty",
        "novelty_tv": "NoveltyTV",
        "error_agreement": "ErrorAgreement",
    }.items():
        register(name, f"genflow_metrics.novelty:{cls}")
    register("cka", "genflow_metrics.similarity:CKA")
