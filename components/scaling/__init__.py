"""Scaling laws for hyper-parameters, section 3.2 of the report: the sweep, the fits, the prediction."""
