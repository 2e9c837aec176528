"""The one result format: what a command measured, on which models and data, with which settings and versions, as JSON.

NaN and infinity are refused; what is undefined is null. `nilr/<command>/1` names the schema.
"""
