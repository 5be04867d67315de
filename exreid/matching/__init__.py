"""From features to scores and rankings: who resembles whom."""
