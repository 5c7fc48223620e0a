"""The order of a run's phases. Every phase leaves a whole file or checkpoint behind and is skipped if it is there."""
