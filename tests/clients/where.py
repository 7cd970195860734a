"""Prints the folder of an installed package. Usage: where.py PACKAGE"""

import importlib.util
import sys

print(importlib.util.find_spec(sys.argv[1]).submodule_search_locations[0])
