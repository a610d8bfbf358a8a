"""KuaiRand-Pure: real impressions of a short-video app as daily event logs."""
