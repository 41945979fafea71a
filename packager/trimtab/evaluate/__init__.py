"""Data sets, and how good a compressed model is against the original.

* `data`: data sets as values, streamed where they do not lie in memory.
* `load`, `arrays`, `images`, `preprocess`, `plugin`: `--data` to a data set.
* `fit`: whether data, model and task go together.
* `tasks`: classification, regression, embeddings, sequences, anomalies, a user's function.
* `intervals`, `significance`: how sure a figure is, and whether a change is chance.
* `harm`: classes and groups that lose more than the rest.
* `evaluate`, `assessment`: a model run over the test samples, and the outcome.
"""
