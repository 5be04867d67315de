"""Tables made of what other programs write: detectors, annotation tools, databases."""
