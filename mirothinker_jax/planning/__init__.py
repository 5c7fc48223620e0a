"""Does a training step fit on a slice that is not there, and what will it cost: by compiling it, or by arithmetic."""
