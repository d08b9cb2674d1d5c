"""Can a network be trusted: is it as often right as it is sure, and where is it wrong?

counts      what is counted of each image: integers, which are added up over images and over ranks
readings    calibration, risk and coverage, boundary IoU, errors by distance and by size, from these counts
"""
