"""The place of the evidence: do the maps of a trained transformer fall on the digit that was asked for?"""
