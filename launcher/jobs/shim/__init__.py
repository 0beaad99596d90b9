"""On the path of a run: a stand-in for the SDK that its script may import."""
