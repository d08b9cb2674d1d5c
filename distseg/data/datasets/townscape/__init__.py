"""The generator behind `town`.

scene says what a scene is; shapes, things, buildings, traffic and streets make one; weather lists the conditions;
raster, surfaces and render make the picture.
"""
