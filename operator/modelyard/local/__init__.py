"""InferenceModels without a cluster: each pod of the planned Deployment is a process of this machine, and the gateway runs beside them."""
