"""Small forms of a model: how each is made, measured, judged and told of. The stage is `components.optimize`."""
