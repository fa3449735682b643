"""keylane.router"""
