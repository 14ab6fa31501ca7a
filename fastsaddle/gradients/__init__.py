"""Where gradients are taken: at the model, at its perturbation, at the neighbors' models."""
