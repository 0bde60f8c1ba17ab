"""Windows of clips: frames between frames, turned, scaled and standardised."""
