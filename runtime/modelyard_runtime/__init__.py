"""The model server that runs in every Modelyard pod, and on its own."""
