"""Experiments behind docs/results: users of the product, imported by nothing of it."""

SMALL_TABLES = (
    "features.user_id.buckets=8192",
    "features.video_id.buckets=4096",
    "features.author_id.buckets=4096",
    "features.music_id.buckets=4096",
)
"""Overrides of KuaiRand's spec for a CPU, where a dense step of its tables would cost more than the
layers do."""
