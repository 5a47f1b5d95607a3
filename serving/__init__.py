"""The KServe predictor: `python -m serving --model_dir DIR [--http_port N]`.

It serves the model package in DIR with LiteRT; it needs neither TensorFlow nor MLflow. DIR may be a symlink, and may
not exist yet: the server answers 503 until a package is there and has predicted a test image. When DIR comes to hold
another package (the symlink moves, the folder is replaced), that package is loaded, tested and swapped in between two
requests. A damaged package is logged and refused, and the old one keeps serving.

    POST /v1/models/pneumonia:predict    an upload event (CloudEvent, or the plain S3 record) -> the result record;
                                         or {"instances": [{"image": base64}]} -> {"predictions": [...]}
    POST /v1/models/pneumonia:explain    the same with heatmaps in the predictions
    POST /v2/models/pneumonia/infer      BYTES (images) or FP32 (prepared input) -> label, probability
    POST /v2/models/pneumonia/versions/3/infer    the same, if version 3 serves, else 404
    POST /predict                        one image as a form field or as the body, for use with curl
    GET  /v2/models/pneumonia            {"versions": ["3"], "sha256": ...}: the package that serves now
    GET  /v2/health/ready                200 once a test image was predicted, else 503
    GET  /metrics, /docs                 Prometheus, OpenAPI

Status codes, with Knative's retry rules in mind (it retries 5xx, 404, 408, 409 and 429, and dead-letters other 4xx):

    200  predicted. Also when the object was deleted (outcome `gone`) or overwritten (`superseded`) before it was read:
         a record says so, and neither a retry nor a dead letter would bring the object back
    204  the event contains no upload
    400  the image was refused (a record says why), or the event is malformed: a retry cannot help
    404  no such route, model or version
    405  the route takes another method
    408  the body did not arrive within 30 s
    413  the body is too large, as it is sent or decompressed
    415  the body is compressed otherwise than with gzip or deflate, or is a CloudEvent in another format than JSON
    503  the store does not answer, no model is loaded, or too many requests are in flight: try again
    500  a misconfiguration or a bug: retried too, because it may be fixed in the meantime

Every error is `{"error": sentence}`, with the code of a refused image under `reason`.

The reply to an upload event is a CloudEvent of type `org.lungline.result.v1` with the record as its data, in the mode
(binary or structured) of the request. An event with several uploads is answered by one `org.lungline.results.v1` with
`{"records": [...]}`; it is 400 only if all of them were refused. `CE_TYPE` and `CE_SOURCE` override type and source.
"""
