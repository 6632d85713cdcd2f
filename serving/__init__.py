"""Who answers: the version store that servers read. Stands alone: no TFX, Beam or MLflow."""
