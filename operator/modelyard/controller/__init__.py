"""The operator: it turns InferenceModels into running pods and tells what became of them."""
