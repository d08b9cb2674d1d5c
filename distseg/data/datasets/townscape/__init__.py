"""The generator behind `town`: a scene, its weather, its picture.

`scene` says what a scene is; `shapes`, `things`, `buildings` and `traffic` make its parts; `highway` and `new_york`
put them along a street; `streets` chooses the street of a site. `weather` lists the conditions; `raster`, `surfaces`
and `render` draw the picture.
"""
