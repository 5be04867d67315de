"""The three table schemas of Camtrap DP 1.0.2 (https://camtrap-dp.tdwg.org/data): names, types and
constraints of the fields, in the standard's order, as descriptors of Table Schema."""

TIME = {"type": "datetime", "format": "%Y-%m-%dT%H:%M:%S%z"}


def _field(name, kind="string", **constraints):
    shape = TIME if kind == "datetime" else {"type": kind}
    return {"name": name, **shape, "constraints": constraints}


def _text(*names):
    return [_field(name) for name in names]


DEPLOYMENTS = {
    "fields": [
        _field("deploymentID", required=True, unique=True),
        *_text("locationID", "locationName"),
        _field("latitude", "number", required=True, minimum=-90, maximum=90),
        _field("longitude", "number", required=True, minimum=-180, maximum=180),
        _field("coordinateUncertainty", "integer", minimum=1),
        _field("deploymentStart", "datetime", required=True),
        _field("deploymentEnd", "datetime", required=True),
        *_text("setupBy", "cameraID", "cameraModel"),
        _field("cameraDelay", "integer", minimum=0),
        _field("cameraHeight", "number", minimum=0),
        _field("cameraDepth", "number", minimum=0),
        _field("cameraTilt", "integer", minimum=-90, maximum=90),
        _field("cameraHeading", "integer", minimum=0, maximum=360),
        _field("detectionDistance", "number", minimum=0),
        _field("timestampIssues", "boolean"),
        _field("baitUse", "boolean"),
        _field(
            "featureType",
            enum=[
                *("roadPaved", "roadDirt", "trailHiking", "trailGame", "roadUnderpass"),
                *("roadOverpass", "roadBridge", "culvert", "burrow", "nestSite", "carcass"),
                *("waterSource", "fruitingTree"),
            ],
        ),
        *_text("habitat", "deploymentGroups", "deploymentTags", "deploymentComments"),
    ],
    "missingValues": [""],
    "primaryKey": "deploymentID",
}
MEDIA = {
    "fields": [
        _field("mediaID", required=True, unique=True),
        _field("deploymentID", required=True),
        _field("captureMethod", enum=["activityDetection", "timeLapse"]),
        _field("timestamp", "datetime", required=True),
        _field("filePath", required=True, pattern=r"^(?=^[^./~])(^((?!\.{2}).)*$).*$"),
        _field("filePublic", "boolean", required=True),
        _field("fileName"),
        _field("fileMediatype", required=True, pattern=r"^(image|video|audio)/.*$"),
        _field("exifData", "object"),
        _field("favorite", "boolean"),
        _field("mediaComments"),
    ],
    "missingValues": [""],
    "primaryKey": "mediaID",
    "foreignKeys": [
        {
            "fields": "deploymentID",
            "reference": {"resource": "deployments", "fields": "deploymentID"},
        }
    ],
}
OBSERVATIONS = {
    "fields": [
        _field("observationID", required=True, unique=True),
        _field("deploymentID", required=True),
        *_text("mediaID", "eventID"),
        _field("eventStart", "datetime", required=True),
        _field("eventEnd", "datetime", required=True),
        _field("observationLevel", required=True, enum=["media", "event"]),
        _field(
            "observationType",
            required=True,
            enum=["animal", "human", "vehicle", "blank", "unknown", "unclassified"],
        ),
        _field("cameraSetupType", enum=["setup", "calibration"]),
        _field("scientificName"),
        _field("count", "integer", minimum=1),
        _field("lifeStage", enum=["adult", "subadult", "juvenile"]),
        _field("sex", enum=["female", "male"]),
        *_text("behavior", "individualID"),
        _field("individualPositionRadius", "number", minimum=0),
        _field("individualPositionAngle", "number", minimum=-90, maximum=90),
        _field("individualSpeed", "number", minimum=0),
        _field("bboxX", "number", minimum=0, maximum=1),
        _field("bboxY", "number", minimum=0, maximum=1),
        _field("bboxWidth", "number", minimum=1e-15, maximum=1),
        _field("bboxHeight", "number", minimum=1e-15, maximum=1),
        _field("classificationMethod", enum=["human", "machine"]),
        _field("classifiedBy"),
        _field("classificationTimestamp", "datetime"),
        _field("classificationProbability", "number", minimum=0, maximum=1),
        *_text("observationTags", "observationComments"),
    ],
    "missingValues": [""],
    "primaryKey": "observationID",
    "foreignKeys": [
        {
            "fields": "deploymentID",
            "reference": {"resource": "deployments", "fields": "deploymentID"},
        },
        {"fields": "mediaID", "reference": {"resource": "media", "fields": "mediaID"}},
    ],
}
SCHEMAS = {"deployments": DEPLOYMENTS, "media": MEDIA, "observations": OBSERVATIONS}
