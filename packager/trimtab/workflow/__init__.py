"""What the commands do, step by step: the parts of Trimtab put together, and no printing.

* `workspace`: the folder that holds the signing repository, the packages and the reports.
* `source`: a model and its data, loaded and checked against each other.
* `compress`: a recipe applied and exported: a folder with `compressed.json`.
* `release`: such a folder packed and signed.
* `deliver`: a package brought to a device, and the device's report brought back.
* `optimize`: all of that in a loop, until the device keeps its budget.
"""
