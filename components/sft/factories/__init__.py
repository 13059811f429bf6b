"""The nine factories of SFT data (section 4.1 of the report): write candidates, check each, keep what holds.

``factory.py`` is the contract, ``build.py`` the stage; every other file is one factory. A check knows nothing of how a
candidate was made: a tenth of the candidates are wrong on purpose, and every one of them must be found.
"""
