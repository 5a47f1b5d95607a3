"""The KServe predictor: `python -m serving --model_dir DIR [--http_port N]`.

It serves the model package in DIR with LiteRT; no TensorFlow, no MLflow. DIR may be a symlink, and may not exist yet:
the server answers 503 until a package is there and has judged a test image. When DIR comes to mean another package
(a symlink that points elsewhere, a folder that was replaced), that one is loaded, tested and swapped in between two
requests; one that is damaged is refused with a log line, and the old one goes on serving.

    POST /v1/models/pneumonia:predict    an upload event (CloudEvent, or the plain S3 record) -> the result record;
                                         or {"instances": [{"image": base64}]} -> {"predictions": [...]}
    POST /v1/models/pneumonia:explain    the same with heatmaps in the predictions
    POST /v2/models/pneumonia/infer      BYTES (images) or FP32 (prepared input) -> label, probability
    POST /predict                        one image as a form field or as the body, for people with curl
    GET  /v2/models/pneumonia            {"versions": ["3"], "sha256": ...}: which package answers now
    GET  /v2/health/ready                200 once a test image was judged, else 503
    GET  /metrics, /docs                 Prometheus, OpenAPI

Status codes, with Knative's retry rules in mind (it retries 5xx, 404, 408, 409 and 429, and dead-letters other 4xx):

    200  judged. Also when the object was deleted (outcome `gone`) or overwritten (`superseded`) before it was read:
         a record says so, and neither a retry nor a dead letter would bring it back
    204  the event tells of no upload
    400  the image was refused (a record says why), or the event is malformed: never worth a retry
    408  the body did not arrive within 30 s
    413  the body is too large
    503  the store does not answer, no model is loaded, or too much is under way: try again
    500  a fault of configuration or of ours: retried too, for it may be mended

The reply to an upload event is a CloudEvent of type `org.lungline.result.v1` with the record as its data, in the mode
(binary or structured) of the request. An event of several uploads is answered by one `org.lungline.results.v1` with
`{"records": [...]}`; it is 400 only if all of them were refused. `CE_TYPE` and `CE_SOURCE` override type and source.
"""
