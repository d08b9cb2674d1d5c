"""Pictures of single images of an evaluation: chosen while it scores, drawn by the rank that has the image.

overlays.Overlays       chooses the images and collects them from all ranks
panels                  a picture of four tiles, for places that show pictures and nothing else
layers                  photograph, truth, prediction and confidence one by one, for the viewer of a page
"""
