"""IBKR's numbers of the messages that matter for measuring requests, and where in them a request is named."""

from __future__ import annotations

from types import MappingProxyType

REQUEST_KINDS = MappingProxyType(
    {
        1: "reqMktData",
        2: "cancelMktData",
        3: "placeOrder",
        4: "cancelOrder",
        5: "reqOpenOrders",
        6: "reqAccountUpdates",
        7: "reqExecutions",
        8: "reqIds",
        9: "reqContractDetails",
        10: "reqMktDepth",
        11: "cancelMktDepth",
        12: "reqNewsBulletins",
        13: "cancelNewsBulletins",
        14: "setServerLogLevel",
        15: "reqAutoOpenOrders",
        16: "reqAllOpenOrders",
        17: "reqManagedAccts",
        18: "requestFA",
        19: "replaceFA",
        20: "reqHistoricalData",
        21: "exerciseOptions",
        22: "reqScannerSubscription",
        23: "cancelScannerSubscription",
        24: "reqScannerParameters",
        25: "cancelHistoricalData",
        49: "reqCurrentTime",
        50: "reqRealTimeBars",
        51: "cancelRealTimeBars",
        52: "reqFundamentalData",
        53: "cancelFundamentalData",
        54: "calculateImpliedVolatility",
        55: "calculateOptionPrice",
        56: "cancelCalculateImpliedVolatility",
        57: "cancelCalculateOptionPrice",
        58: "reqGlobalCancel",
        59: "reqMarketDataType",
        61: "reqPositions",
        62: "reqAccountSummary",
        63: "cancelAccountSummary",
        64: "cancelPositions",
        67: "queryDisplayGroups",
        68: "subscribeToGroupEvents",
        69: "updateDisplayGroup",
        70: "unsubscribeFromGroupEvents",
        74: "reqPositionsMulti",
        75: "cancelPositionsMulti",
        76: "reqAccountUpdatesMulti",
        77: "cancelAccountUpdatesMulti",
        78: "reqSecDefOptParams",
        79: "reqSoftDollarTiers",
        80: "reqFamilyCodes",
        81: "reqMatchingSymbols",
        82: "reqMktDepthExchanges",
        83: "reqSmartComponents",
        84: "reqNewsArticle",
        85: "reqNewsProviders",
        86: "reqHistoricalNews",
        87: "reqHeadTimeStamp",
        88: "reqHistogramData",
        89: "cancelHistogramData",
        90: "cancelHeadTimeStamp",
        91: "reqMarketRule",
        92: "reqPnL",
        93: "cancelPnL",
        94: "reqPnLSingle",
        95: "cancelPnLSingle",
        96: "reqHistoricalTicks",
        97: "reqTickByTickData",
        98: "cancelTickByTickData",
        99: "reqCompletedOrders",
        100: "reqWshMetaData",
        101: "cancelWshMetaData",
        102: "reqWshEventData",
        103: "cancelWshEventData",
        104: "reqUserInfo",
    }
)
"""Number of an outgoing message -> the call that sends it."""

OWN_HEARTBEAT = 49
"""Sent raw by this project's heartbeat; a bot's call for the time waits for its answer."""

NAMED_AT = MappingProxyType({1: 2, 3: 1, 10: 2, 22: 1, 50: 2, 92: 1, 94: 1, 97: 1})
"""Orders and subscriptions, whose first answer counts: the place of the request's id in the outgoing message."""

CANCELLED_AT = MappingProxyType(
    {2: 2, 11: 2, 23: 2, 25: 2, 51: 2, 53: 2, 56: 2, 57: 2, 89: 1, 90: 1, 93: 1, 95: 1, 98: 1}
)
"""Cancelling messages: the place of the id that is cancelled."""

ANSWERED_AT = MappingProxyType(
    {
        "1": 2,
        "2": 2,
        "3": 1,
        "5": 1,
        "12": 2,
        "13": 2,
        "20": 2,
        "45": 2,
        "46": 2,
        "47": 2,
        "50": 2,
        "57": 2,
        "58": 2,
        "81": 1,
        "94": 1,
        "95": 1,
        "99": 1,
    }
)
"""Incoming messages that answer orders and subscriptions: the place of the id."""

ERROR = 4
ERROR_ID, ERROR_CODE = 2, 3
"""Places in an incoming error message."""

WARNINGS = frozenset({165, 399, 404, 10167}) | frozenset(range(2100, 2200))
"""Codes after which a request goes on."""
