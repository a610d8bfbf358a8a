"""StatisticsGen: TFX's, with a read that every runner spreads over its workers."""
