"""What happens to a region: each branch takes it out of the pyramid, says one thing of it, and knows what to learn.

A branch holds its layers and writes its part of both graphs of `MaskRCNN`:

    branch.learn(...)    its predictions on the drawn regions beside their targets, for `objective.py`
    branch.predict(...)  its part of the detections
    branch.maps(...)     of mask and keypoint branch: what `predict` reads them from, to be averaged over several views

B images, R regions drawn of each, N packed regions of all images, K classes, D detections, M mask size, P keypoints,
m heatmap size.
"""
